"""What an output says, read as data and never as code: texts, JSON, boxes, points, masks, poses."""
