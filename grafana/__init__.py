"""Grafana's dashboards, as typed Python: ``make dashboards`` compiles them to the JSON in ``grafana/dashboards``.

``panels`` makes panels of queries, whose PromQL ``expressions`` narrows down to what is chosen on top of the page;
``variables`` and ``board`` hold what all dashboards have in common, and each module of ``boards`` is one of them.
"""
