"""From a skeleton, or from what is known before there is one, to the plan that exporters obey. Pure."""
