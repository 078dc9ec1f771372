"""Plans checked against the model before anything slow runs, and plans made from options."""

from __future__ import annotations

from edgekit.build_options import BuildOptions
from edgekit.errors import RecipeError, SettingError, nearest
from edgekit.pipeline.model.names import layer_names, names_of_operators
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.training.check import check_training
from edgekit.pipeline.training.int8 import (
    DISTILLATION,
    RECOVERY_RATE,
    STUDENT_RATE,
    TRAINING_STEPS,
    UNLABELLED_RATE,
    quantization_aware,
)
from edgekit.pipeline.training.teacher import teacher_of
from edgekit.plan import (
    DropBlocks,
    LowRank,
    Objective,
    Plan,
    Precision,
    Prune,
    Resize,
    Sparsity,
    Training,
)
from edgekit.progress import Progress
from edgekit.recipe.image_size import size_text
from edgekit.recipe.recipe import Recipe
from edgekit.runtimes.base import Runtime
from edgekit.search.constraints import NO_CONSTRAINTS, Constraints
from edgekit.values import PrecisionChoice, image_size

# A layer has at most so many factors (tucker).
MOST_FACTORS = 3


def check_plan(plan: Plan, subject: Subject) -> Plan:
    """The plan, with the model's structure digest.

    Raises SettingError (the plan is for another structure, names unknown layers, or lacks data),
    RecipeError (the plan trains, and the recipe's training() does not work).
    """
    check_stateless(subject, plan.changes_the_model or bool(plan.trainings))
    structure = subject.structure_digest
    if plan.structure not in (None, structure):
        raise SettingError(
            f"the plan is for another model than {subject.recipe.path}: the layers, or the shapes "
            "of their weights, differ",
            'build without --plan, or remove "structure" from the plan to use it anyway',
        )
    _check_names(plan, subject)
    if plan.float_as != "fp32" and plan.precision != "mixed":
        raise SettingError(
            f'"float_as" in the plan is for the precision mixed, not {plan.precision}',
            'remove "float_as" from the plan',
        )
    _check_kept(plan, subject)
    if plan.is_quantized and not subject.calibration:
        raise SettingError(
            f"the plan's precision {plan.precision} needs calibration data, but "
            f"{subject.recipe.path.name} has none",
            "give typical inputs with --calibration FILE.npz",
        )
    _check_worth(subject, plan.prune)
    _check_blocks(subject, plan.drop_blocks)
    if plan.prunes_by_labels or any(one.objective != "float_model" for one in plan.trainings):
        check_training(subject)
    elif plan.trainings and not (subject.calibration or subject.recipe.has("training")):
        raise SettingError(
            f"the plan distills from the float model, but {subject.recipe.path.name} has no "
            "inputs for that",
            "add calibration() or training(), or give --calibration FILE.npz",
        )
    return plan.replaced(structure=structure)


def _check_names(plan: Plan, subject: Subject) -> None:
    """Raise SettingError if the plan names a layer or operator that the model lacks."""
    names = layer_names(subject.model)
    if plan.low_rank is not None:  # a factor, which the plan itself makes, may stay float
        names += [
            f"{layer}.{n}" for layer in plan.low_rank.factors or () for n in range(MOST_FACTORS)
        ]
    if any(":" in name for name in plan.float_layers):
        names += names_of_operators(subject)
    for layer in plan.float_layers:
        if layer not in names:
            what = "operator" if ":" in layer else "layer"
            raise SettingError(
                f"the plan keeps the {what} '{layer}' float, but the model has no such {what}",
                nearest(layer, names),
            )


def _check_kept(plan: Plan, subject: Subject) -> None:
    """Raise SettingError if the plan keeps a module that the model lacks."""
    names = layer_names(subject.model)
    for part in (plan.drop_blocks, plan.prune):
        for name in part.keep if part is not None else ():
            if name not in names:
                raise SettingError(
                    f"the plan keeps '{name}', but the model has no such module",
                    nearest(name, names),
                )


def base_plan(
    subject: Subject,
    options: BuildOptions,
    choice: PrecisionChoice,
    progress: Progress,
    constraints: Constraints = NO_CONSTRAINTS,
) -> Plan:
    """The plan of changes before quantization, from flags. Its precision is the one that steps are
    measured in. ``constraints``: with names of the model; they become part of the plan.

    Raises RecipeError: training() does not work.
    """
    check_stateless(subject, options.qat or options.changes_the_model or options.distill)
    recipe = subject.recipe
    floating = choice in ("fp32", "fp16") or not subject.calibration
    precision: Precision = "fp32" if floating else "int8"
    plan = Plan(precision="fp32", seed=options.seed, structure=subject.structure_digest)
    plan = plan.replaced(float_layers=constraints.keep_float).in_precision(precision)
    student = options.distill and recipe.has("teacher")
    if not options.removes and not student:
        return plan
    resize = _resize(recipe, options.input_size)
    blocks, cut = _blocks(options, constraints), _cut(options, constraints)
    factors = LowRank(ratio=options.low_rank) if options.low_rank is not None else None
    zeros = Sparsity(ratio=options.sparsity) if options.sparsity is not None else None
    _check_worth(subject, cut)
    _check_blocks(subject, blocks)
    training = recovery(subject, options, progress, options.removes)
    removals = {"resize": resize, "drop_blocks": blocks, "prune": cut, "low_rank": factors}
    return with_recovery(plan.replaced(**removals, sparsity=zeros), training)


def _blocks(options: BuildOptions, constraints: Constraints) -> DropBlocks | None:
    if options.drop_blocks is None:
        return None
    return DropBlocks(count=options.drop_blocks, keep=constraints.keep_blocks)


def _cut(options: BuildOptions, constraints: Constraints) -> Prune | None:
    if options.prune is None:
        return None
    return Prune(
        ratio=options.prune,
        keep=constraints.keep_channels,
        min_channels=constraints.min_channels,
    )


def with_recovery(plan: Plan, training: Training | None) -> Plan:
    """The plan with a training of ``recovery``, as suits what it removes."""
    if training is None:
        return plan
    if training.objective != "float_model":
        return plan.without_compensation.replaced(recover=training)
    return plan.replaced(recover=training)


def _resize(recipe: Recipe, wanted: int | tuple[int, int] | str | None) -> Resize | None:
    """Raises SettingError: the recipe declares sizes, and this is none of them."""
    size = image_size(wanted) if wanted is not None else None
    if size is None:
        return None
    declared = recipe.input_sizes()
    if declared and size not in declared:
        known = ", ".join(map(size_text, declared))
        raise SettingError(
            f"{recipe.path}: input_sizes() does not declare {size_text(size)}, but {known}",
            "choose one of these, or add it to input_sizes()",
        )
    return Resize(size=size)


def check_runtime(runtime: Runtime, plan: Plan, training: Training | None) -> None:
    """Raises SettingError: a repair or a training that the runtime cannot do."""
    steps = plan.repairs.items() if plan.is_quantized else ()
    able = {*runtime.repairs, *(("train",) if runtime.pt2e is not None else ())}
    wanted = [text for field, text in steps if field not in able]
    if training is not None and runtime.pt2e is None:
        wanted.append("training in int8")
    if wanted:
        raise SettingError(
            f"{runtime.name} quantizes after conversion: {', '.join(wanted)} cannot be done there",
            "leave it out (--plan, --qat, --distill), or choose another --runtime",
        )


def check_stateless(subject: Subject, changes: bool) -> None:
    """Raise SettingError if the plan changes or trains a stateful model."""
    if subject.states and changes:
        names = ", ".join(state.name for state in subject.states)
        raise SettingError(
            f"{subject.recipe.path}: a model with state ({names}) cannot be made smaller or "
            "trained",
            "remove --input-size, --drop-blocks, --prune, --low-rank, --sparsity, --distill and "
            "--qat",
        )


def _check_worth(subject: Subject, prune: Prune | None) -> None:
    if prune is not None and prune.needs_inputs and not subject.calibration:
        raise RecipeError(
            f"{subject.recipe.path} has no calibration(), which pruning needs to rank channels",
            'add calibration(), give --calibration FILE.npz, or set "importance": "l2" in a plan',
        )


def _check_blocks(subject: Subject, wanted: DropBlocks | None) -> None:
    """Raise RecipeError or SettingError for blocks that cannot be chosen or do not exist."""
    if wanted is None:
        return
    if wanted.count is not None and not subject.calibration:
        raise RecipeError(
            f"{subject.recipe.path} has no calibration(), which the choice of blocks needs",
            "add calibration(), give --calibration FILE.npz, or name the blocks in a plan",
        )
    known = [name for name, _ in subject.model.named_modules() if name]
    for name in wanted.blocks or ():
        if name not in known:
            raise SettingError(
                f"the plan removes the block '{name}', but the model has no such module",
                nearest(name, known),
            )


def recovery(
    subject: Subject, options: BuildOptions, progress: Progress, is_cut: bool = True
) -> Training | None:
    """The training that the recipe allows. ``is_cut``: after something was removed; otherwise the
    model is the student of the recipe's teacher. Raises RecipeError.
    """
    recipe = subject.recipe
    objective: Objective = "float_model"
    if recipe.has("training"):
        check_training(subject)
        objective = "both" if options.distill else "labels"
    elif not subject.calibration:
        progress.note("no training() and no calibration(): lost accuracy cannot be recovered")
        return None
    if objective != "labels":
        teacher_of(subject)
    rate, features = RECOVERY_RATE if is_cut else STUDENT_RATE, 0.0
    if is_cut and objective == "float_model" and not recipe.has("teacher"):
        rate, features = UNLABELLED_RATE, 1.0
    steps = TRAINING_STEPS[options.effort]
    return Training(objective=objective, steps=steps, learning_rate=rate, features=features)


def int8_training(subject: Subject, options: BuildOptions) -> Training | None:
    """The int8 training from flags: --qat with labels; --distill from the float model, unless that
    was done before quantization. Raises RecipeError.
    """
    recipe = subject.recipe
    if options.qat:
        check_training(subject)
        return quantization_aware(options.effort, options.distill)
    if not options.distill or options.removes or recipe.has("teacher"):
        return None
    steps = TRAINING_STEPS[options.effort]
    return Training(objective="float_model", steps=steps, learning_rate=DISTILLATION.learning_rate)
