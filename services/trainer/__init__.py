"""The trainer: finetunes, optimiser steps that are durable before they are acknowledged, and their checkpoints."""
