"""Speed and scale, measured in paired runs, and studies of finished benchmarks."""
