"""The page: its parts, and what happens when one is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from lc_finetune.checkpoint import EXPLAINED, ORDINAL, RELATIONS, RUNNABLES
from lc_finetune.errors import ConfigError, InputError, LCFinetuneError, MissingDependencyError
from lc_finetune.evaluation.corrections import found_of, row_of
from lc_finetune.playground.form import COLUMNS, FieldName, Form
from lc_finetune.records import append_rows
from lc_finetune.rendering import to_html, visible
from lc_finetune.schemas import MultiLabelClassification, Result
from lc_finetune.serving.models import Served

try:
    import gradio as gr
    from fastapi import FastAPI

    from lc_finetune.playground.guard import Guard
    from lc_finetune.serving.faults import log_fault
except ImportError as error:
    raise MissingDependencyError(
        f"Expected the packages of the playground, found no {error.name}. "
        "Install them: pip install 'lc-finetune[playground]'."
    ) from error

STYLE = """
.gradio-container { width: 100%; max-width: 56rem !important; margin: 0 auto !important; }
.result { overflow-x: auto; }
@media (max-width: 40rem) {
  .result div[style*="display:grid"] { column-gap: .5em !important; font-size: .8em !important; }
  .result span { overflow-wrap: break-word !important; }
  .result span[aria-hidden] { width: 2em !important; }
}
"""
"""A column for reading; on a narrow screen bars make room for words."""
TITLES: dict[FieldName, str] = {
    "label": "Label",
    "labels": "Labels",
    "number": "Number",
    "entities": "Entities",
    "answers": "Answers",
}
FONT = (gr.themes.Font("system-ui"), gr.themes.Font("sans-serif"))
"""Of the machine: none is loaded."""
HINTS: dict[FieldName, str] = {
    "entities": "A row each, with words of the text and a type; the start only where the words occur more than once. "
    "An emptied row counts for nothing.",
    "answers": "A row each, with words of the context; the start only where they occur more than once. "
    "Without a row the context has no answer.",
}


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and the texts that were asked about."""

    texts: tuple[str, ...]
    result: Result


@dataclass(frozen=True, slots=True)
class Steps:
    """What the page does.

    Attributes:
        served: Who answers.
        form: What can be corrected.
        corrections: Where rows go.
        max_text_characters: Length of one text, at most.
    """

    served: Served
    form: Form
    corrections: Path
    max_text_characters: int

    def answer(self, *texts: str) -> Answered:
        """Ask the model."""
        for name, text in zip(self.form.texts, texts, strict=True):
            if not text.strip():
                raise InputError(f"{name}: expected a text, found none. Type one.")
            if len(text) > self.max_text_characters:
                raise InputError(
                    f"{name}: expected at most {self.max_text_characters:,} characters, found {len(text):,}. "
                    "Nothing is cut off; --max-text-characters allows more."
                )
        return Answered(texts, self.served.runnable.invoke(texts if len(texts) > 1 else texts[0]))

    def explain(self, answered: Answered | None, label: str, *texts: str) -> Result:
        """Ask what speaks for a label."""
        return self.served.runnable.explain(_current(answered, texts).result, target=label)

    def correct(self, answered: Answered | None, texts: tuple[str, ...], values: tuple[Any, ...]) -> None:
        """Add what the fields say to the file."""
        result = _current(answered, texts).result
        row = row_of(self.form.corrected(result, values)) | found_of(result)
        try:
            append_rows(self.corrections, [row])
        except OSError as error:
            raise ConfigError(
                f"{self.corrections}: expected a file that can be written, found: {error.strerror}. The correction is "
                "not saved."
            ) from error


def _current(answered: Answered | None, texts: tuple[str, ...]) -> Answered:
    if answered is None or answered.texts != texts:
        raise InputError("Expected the text that was answered, found another. Ask for an answer first.")
    return answered


def create_page(steps: Steps, *, name: str) -> gr.Blocks:
    """Lay the page out.

    Args:
        steps: What it does.
        name: Of the checkpoint, for the heading.
    """
    task, form = steps.served.task, steps.form
    explains = task in EXPLAINED and find_spec("captum") is not None
    with gr.Blocks(title=f"{name}: playground", analytics_enabled=False) as page:
        gr.HTML(_heading(steps, name))
        texts = [
            gr.Textbox(label=_title(one), lines=2 if i else 4, placeholder=_placeholder(form) if not i else None)
            for i, one in enumerate(form.texts)
        ]
        ask = gr.Button("Answer", variant="primary")
        answered = gr.State(None)
        with gr.Column(visible=False) as below:
            shown = gr.HTML(elem_classes="result", elem_id="answer")
            if explains:
                with gr.Row(equal_height=True):
                    target = gr.Dropdown(list(form.labels), label="Label to explain", scale=4)
                    explain = gr.Button("Explain", scale=1, min_width=100)
                explanation = gr.HTML(elem_classes="result", elem_id="explanation")
            elif task in EXPLAINED:
                gr.HTML("<p>To see what speaks for a label: pip install 'lc-finetune[explain]'</p>")
            gr.HTML(_instructions(form))
            fields = [_field(field, form) for field in form.fields]
            save = gr.Button(f"Add to {steps.corrections.name}")
            status = gr.HTML(elem_id="status")

        def answer(*given: str) -> dict[Any, Any]:
            found = steps.answer(*given)
            outputs = {
                answered: found,
                below: gr.Column(visible=True),
                shown: to_html(found.result),
                save: gr.Button(interactive=True),
                status: "",
                **dict(zip(fields, form.filled(found.result), strict=True)),
            }
            return outputs | ({target: _likeliest(found.result), explanation: ""} if explains else {})

        def attribute(found: Answered | None, label: str, *given: str) -> str:
            return to_html(steps.explain(found, label, *given))

        def correct(found: Answered | None, *given: Any) -> dict[Any, Any]:
            steps.correct(found, given[: len(texts)], given[len(texts) :])
            said = f"Added to {steps.corrections}."
            return {status: f"<p>{escape(said)}</p>", save: gr.Button(interactive=False), answered: None}

        asked = [ask.click, *(one.submit for one in texts)]
        filled = [answered, below, shown, save, status, *fields, *([target, explanation] if explains else ())]
        gr.on(asked, told(answer), texts, filled, api_visibility="private")
        if explains:
            explain.click(told(attribute), [answered, target, *texts], explanation, api_visibility="private")
        save.click(told(correct), [answered, *texts, *fields], [status, save, answered], api_visibility="private")
    return page


def mounted(page: gr.Blocks) -> FastAPI:
    """Make a guarded application of the page alone: no link to elsewhere, and no texts kept in the browser."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(
        app, page, path="/", server_name="127.0.0.1", footer_links=[], run_history=False, ssr_mode=False,
        mcp_server=False, enable_monitoring=False, pwa=False, theme=gr.themes.Default(font=FONT, font_mono=FONT),
        css=STYLE,
    )  # fmt: skip
    app.add_middleware(Guard)
    return app


def told(step: Callable[..., Any]) -> Callable[..., Any]:
    """Show on the page what went wrong; what is no fault of the user's is logged, without the text."""

    @wraps(step)
    def run(*given: Any) -> Any:
        try:
            return step(*given)
        except LCFinetuneError as error:
            raise gr.Error(str(escape(str(error))), print_exception=False) from None
        except Exception as error:
            log_fault("The playground", error)
            raise gr.Error("The playground failed on this text; see its log.", print_exception=False) from None

    return run


def _heading(steps: Steps, name: str) -> str:
    task = steps.served.task
    known = [f"{len(steps.form.labels)} labels"] if {"label", "labels"} & {*steps.form.fields} else []
    known += [f"{len(steps.form.types)} types of entities"] if steps.form.types else []
    what = ", ".join([f"{RUNNABLES[task]}: {task}", *known])
    return str(Markup("<h2>{}</h2><p>{}</p>").format(visible(name), what))


def _instructions(form: Form) -> str:
    hints = [HINTS[field] for field in form.fields if field in HINTS]
    hints += ["From the lowest to the highest."] if form.task == ORDINAL else []
    hints += [f"Types: {', '.join(form.types)}."] if form.types else []
    return str(Markup("<h3>The right answer</h3><p>{}</p>").format(visible(" ".join(hints))))


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _placeholder(form: Form) -> str:
    if form.task == RELATIONS:
        return "A text with <e1>head</e1> and <e2>tail</e2>"
    return "Type here. Shift+Enter answers."


def _likeliest(result: Any) -> str:
    if isinstance(result, MultiLabelClassification):
        return max(result.scores, key=result.scores.__getitem__)
    label: str = result.label
    return label


def _field(field: FieldName, form: Form) -> Any:
    """Make the part of the page in which a field is filled in."""
    title = TITLES[field]
    if field in ("label", "labels"):
        return gr.Dropdown(list(form.labels), label=title, multiselect=field == "labels")
    if field == "number":
        return gr.Number(label=title)
    columns = list(COLUMNS[field])
    return gr.Dataframe(
        headers=columns, datatype="str", type="array", column_count=len(columns), label=title, interactive=True,
        wrap=True, buttons=[],
    )  # fmt: skip
