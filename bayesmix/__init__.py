"""Mixture models written once in NumPyro, fitted by EM and by NUTS."""
