"""What each page shows: from what is read to the values of its template."""
