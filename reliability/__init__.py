"""Campaigns that try what a user's machine does to a run, and write down what came of it."""
