"""The running worker: what puts it together and stops it, processes, health, the ops port."""
