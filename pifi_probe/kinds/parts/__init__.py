"""What kinds of tasks are made of: rows and labels as read, encoding, predicting, metrics."""
