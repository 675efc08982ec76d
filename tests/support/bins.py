"""Bin numbers as the silos make them, for trees of the pooled table."""

from consilo.vertical.trees.trees import coded, edges_of


def binned(features, max_bins):
    return coded(features, edges_of(features, max_bins))
