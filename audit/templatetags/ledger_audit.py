"""What other pages show of the verification."""

from django import template

from audit import checker

register = template.Library()


@register.simple_tag
def findings() -> checker.Brief:
    """Whether the last passes found something."""
    return checker.brief()
