"""Jobs on a cluster: what Slurm says of them, a small twin of a plan, and its report."""
