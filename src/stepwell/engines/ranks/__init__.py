"""Engines over many ranks: a rank steps the part that it holds with another engine, and what it lacks it asks for."""
