"""A student as a web page that runs it in the browser."""
