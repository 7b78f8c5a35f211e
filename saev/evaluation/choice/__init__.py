"""Model selection: the Pareto front of a sweep, and which of its members to take.

choice: sweep id or folder → page and registry
runs: members, read from MLflow or the sweep's folder
front: Pareto front and picks, pure functions
outcome: what a choice receives and returns
figure: the Pareto figure
page: index.html, members.csv, picks.json
card: the model card of a pick
registration: versions in the model registry, tags with reasons
"""
