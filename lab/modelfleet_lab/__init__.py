"""The lab: a simulated model server, questions with checkable answers, baselines and the demo."""
