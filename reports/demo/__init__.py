"""``rwm demo``: what the toolkit does, in minutes, from recordings to a page of evidence."""
