"""From one study file to an honest answer: plan, points, launch, collect, statistics."""
