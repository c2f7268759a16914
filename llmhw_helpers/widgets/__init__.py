"""Explorers: each reads its controls, calls `costs`, calls `plots`."""
