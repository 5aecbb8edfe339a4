"""Data sets in and out: COCO and the moontune JSONL, converted once, at the edge, to boxes and points in 0..1."""
