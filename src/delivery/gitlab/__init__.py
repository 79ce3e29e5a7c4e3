"""GitLab's API, and the settings of the project as code."""
