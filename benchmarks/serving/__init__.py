"""The serving benchmark: this project's service beside the bare runtime and other servers."""
