"""The dashboard and the public statistics: web pages about feedback, in French."""
