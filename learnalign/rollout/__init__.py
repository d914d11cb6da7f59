"""Sampling of responses: what a rollout is, reproducible draws, and the engines that make rollouts."""
