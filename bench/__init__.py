"""`make bench`: ratios against peers that run beside us, in one run on one machine."""
