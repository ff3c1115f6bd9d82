"""Orders in which a document and a question are shown to a model."""

from jrt_prompts.files import list_templates, load_template, parse_template
from jrt_prompts.template import MAX_READS, Part, Prompt, PromptError, Segment, Template, TemplateError

__all__ = [
    "MAX_READS",
    "Part",
    "Prompt",
    "PromptError",
    "Segment",
    "Template",
    "TemplateError",
    "list_templates",
    "load_template",
    "parse_template",
]
