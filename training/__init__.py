"""From packs to models: architecture, order, loop, checkpoints, evaluation, export. Only `worker` imports ray."""
