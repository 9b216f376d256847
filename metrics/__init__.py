"""What happened: NVML telemetry, node exporter and control-plane collectors."""
