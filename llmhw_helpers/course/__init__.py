"""What makes it a course: exercises with feedback, and the ledger of predictions and measurements."""
