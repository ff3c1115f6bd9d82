"""Recurrent operators of the models, each in several backends under one signature."""
