"""Turns a video file, a camera or an RTSP stream into frames for the topic, or for a service."""
