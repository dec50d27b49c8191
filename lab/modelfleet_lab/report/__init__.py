"""The page of evaluations: what is better, what is not, and the command behind every figure."""
