"""Training: pretraining, fine-tuning, checkpoints, TensorBoard, memory."""
