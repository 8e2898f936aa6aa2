"""What operators load into Prometheus and Grafana, made from the table of metrics. See OPERATING.md beside this."""
