"""What an operator does under traffic: one file for each verb."""
