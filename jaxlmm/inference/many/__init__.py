"""What thousands of responses say together: `moderated` tests, and false discoveries among them (`discoveries`)."""
