"""Fuzzing: seeded mutations of valid inputs against everything that reads what somebody else wrote."""
