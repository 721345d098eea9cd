"""From a name to labelled splits, decoded images, views and the order of rows."""
