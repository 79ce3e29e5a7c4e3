"""`GET /live`: frames of the stream as they are answered, to browsers, by server-sent events."""
