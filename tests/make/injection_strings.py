"""Texts that a careless program would run, follow, or choke on."""

HOSTILE = [
    "",
    " ",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "| touch pwned",
    "--upload-pack=touch pwned",
    "--exec=touch pwned",
    "-o ProxyCommand=touch pwned",
    "ext::touch pwned",
    "../../etc/passwd",
    "v1.0.0\n",
    "landcover@v1.0.0\n",
    "landcover@v1.0.0\ntouch pwned",
    "landcover@v1.0.0;touch pwned",
    "landcover@v$(touch pwned).0.0",
    "landcover#staging#1\n",
    "landcover#$(touch pwned)#1",
    "landcover#--upload-pack=x#1",
    "refs/tags/landcover@v1.0.0",
    "landcover@v1.0.0\0",
    "\x1b[2J",
    "\udc80",
]

TWO_HOSTILE = ["$(touch pwned)", "--upload-pack=touch pwned"]
"""Enough for a command whose parser is tested with all of them."""
