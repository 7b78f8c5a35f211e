"""Values that no key of the configuration may have, by key, written by hand and not from the table."""

BAD = {
    "count": "0 -1 1.5 nan inf 1e30 abc [] {} null true '' 99999999999999999999999",
    "count or null": "0 -3 2.5 nan -inf 1e30 many [3] {} false ''",
    "from 0": "-1 0.5 nan inf 1e30 none [] {a:1} null ''",
    "workers": "-1 0.5 nan inf 100000000 two [] {} null true",
    "seed": "-1 5000000000 0.5 nan inf abc [] {} null ''",
    "layer": "1.5 nan inf last [] {} null true 99999999",
    "layers": "5 [1.5] [nan] [a] {} true abc [null]",
    "positive": "0 -1 nan inf -inf 1e30 abc [] {} null true ''",
    "not negative": "-1 nan inf -inf abc [] {} null true",
    "positive or null": "0 -1 nan inf abc [] {} true",
    "number": "nan inf -inf abc [] {} null true ''",
    "share": "-0.1 1.1 nan inf half [] {} null true",
    "inner share": "0 1 -0.1 1.1 nan inf half [] {} null",
    "share below 1": "1 -0.1 nan inf half [] {} null true",
    "flag": "1 0 abc '' nan [] {} null 0.5",
    "word": "nope '' 0 nan [] {} null true",
    "path": "'' '\" \"' 5 nan [] {} null true",
    "path or null": "'' '\" \"' 5 nan [] {} true",
    "paths": "[''] [5] 5 nan {} true '' [null] [[a]]",
    "text or null": "'' [] {} true",
    "text": "'' [] {} true 5 null nan",
    "texts or null": "5 {} true nan [5] [{}] ['']",
    "mapping of paths": "5 abc [] true {a:5} {a:''} {a:null} {a:[b]}",
    "node": "5 abc [] true nan ''",
    "class": "5 '' [] {} null nan a-b",
}
"""Sort of key → values that are nonsense for each of that sort."""

KEYS = {
    "train": """
        seed: seed
        name: text or null
        ckpt_path: path or null
        objective: text
        paths.outputs: path
        paths.run: path
        hydra.run.dir: '' '" "' [] {}
        tokens.which: word
        tokens.n_per_image: count or null
        tokens.max_norm: positive or null
        record.layers: layers
        record.root: path
        record.dtype: word
        record.precision: word
        record.batch_size: count
        record.images_per_shard: count
        record.num_workers: workers
        record.seed: seed
        data._target_: class
        data.dir: path or null
        data.batch_size: count
        data.reservoir_tokens: count
        data.num_workers: workers
        data.drop_last: flag
        data.verify_checksums: flag
        data.max_norm: positive or null
        data.seed: seed
        evaluation.fidelity: flag
        evaluation.n_images: count or null
        evaluation.batch_size: count
        evaluation.num_workers: workers
        evaluation.figures: flag
        backbone.family: text
        backbone.name: text
        backbone.weights: path or null
        backbone.layer: layer
        images.n_images: count or null
        images.size: count
        images.seed: seed
        images.val_fraction: share below 1
        images.on_error: word
        trainer._target_: class
        trainer.accelerator: word
        trainer.devices: 0 -2 1.5 nan inf abc {} null true [a] [-1] ''
        trainer.precision: 8 nan fp8 [] {} null '' true
        trainer.max_steps: 0 -2 1.5 nan inf 1e30 abc [] {} null
        trainer.max_epochs: 0 -2 1.5 nan inf abc [] {} null
        trainer.gradient_clip_val: -1 nan inf abc [] {} true
        trainer.log_every_n_steps: count
        trainer.val_check_interval: 0 -1 nan inf abc [] {} null 1.5
        trainer.check_val_every_n_epoch: count or null
        trainer.num_sanity_val_steps: -2 1.5 nan inf abc [] {} null
        trainer.enable_model_summary: flag
        callbacks.best.dirpath: path
        callbacks.best.filename: text
        callbacks.best.monitor: text or null
        callbacks.best.mode: word
        callbacks.best.save_top_k: -2 1.5 nan inf abc [] {} null 0
        callbacks.best.enable_version_counter: flag
        callbacks.last.every_n_train_steps: count
        callbacks.last.save_on_train_epoch_end: flag
        callbacks.progress.refresh_rate: from 0
        callbacks.progress: node
        model._target_: class
        model.activation: word
        model.expansion: positive or null
        model.d_sae: count or null
        model.k: positive or null
        model.dead_after_tokens: count
        model.aux_coefficient: not negative
        model.k_aux: count or null
        model.init.encoder: word
        model.init.bias: word
        model.init.atoms: word
        model.learning_rate.warmup_steps: from 0
        model.learning_rate.decay_fraction: share
        model.learning_rate.encoder_factor: positive
        model.optimizer.lr: 0 -1 nan inf 1e30 abc [] {} null true
        model.optimizer.fused: 1 abc '' nan [] {}
        model.learning_rate: node
        data: node
        record: node
        evaluation: node
        backbone: 5 nope null [] '' true
        images: 5 nope null [] '' true
        model: 5 nope null [] '' true
        trainer: 5 nope null [] '' true
        callbacks: 5 nope [] '' true
        logger: 5 nope null [] '' true
        task: 5 nope null [] '' true
        """,
    "train model=archetypal": "model.decoder.n_points: count\nmodel.decoder.relaxation: not negative",
    "train model=jump_relu": """
        model.jump_relu.start_threshold: -1 nan inf abc [] {} true
        model.jump_relu.bandwidth: positive
        model.jump_relu.threshold_lr_factor: positive
        model.objective.coefficient: not negative
        """,
    "train model=jump_relu_tanh": """
        model.objective.slope: positive
        model.objective.pre_coefficient: not negative
        model.objective.warmup: share
        model.jump_relu.jump_to_input: flag
        model.decoder.start_norm: positive
        """,
    "train model=gated": "model.objective.control_rate: not negative",
    "train model=multi_topk": """
        model.objective.factor: 1 0 -1 nan inf abc [] {} null
        model.objective.weight: not negative
        """,
    "train model=p_anneal": """
        model.objective.p_end: 0 1.1 -0.1 nan inf abc [] {} null
        model.objective.warmup_steps: from 0
        """,
    "train model=matryoshka": """
        model.objective.prefixes: 5 abc {} [0,1] [nan] [1.5] [a] true
        model.objective.n_random: count or null
        """,
    "train model=relu_free_norm": "model.subtract_b_dec: flag",
    "train model=pca": "model.kind: word\nmodel.seed: seed",
    "train callbacks=ema": "callbacks.ema.decay: inner share",
    "train callbacks=resample": """
        callbacks.resample.every_n_tokens: count
        callbacks.resample.dead_after_tokens: count
        callbacks.resample.n_times: count
        """,
    "train task=head": """
        model.features: word
        model.learning_rates: 5 [0] [-1] [nan] [inf] [a] {} null true abc
        model.weight_decays: 5 [-1] [nan] [inf] [a] {} null true
        features.batch_size: count
        features.selection_fraction: inner share
        features.seed: seed
        features.verify_checksums: flag
        """,
    "train task=class_rows": """
        model.rows: path
        model.class_names: path or null
        model.templates: texts or null
        """,
    "train images=folder": "images.roots: paths\nimages.labels: word\nimages: node",
    "train images=segmentation": "images.void_value: -1 256 1.5 nan abc [] {} true",
    "train images=torchvision": """
        images.dataset: word
        images.root: path
        images.download: flag
        """,
    "train images=webdataset": """
        images.urls: paths
        images.image_key: '' 5 [] {} true
        images.label_key: text
        images.classes: 5 '' {} true nan [5] names.txt
        images.cache_dir: path
        """,
    "train backbone=clip_b16": "backbone.pretrained_tag: '' 5 [] {} true nan",
    "train +experiment=seg_camvid": "backbone.image_size: 0 -1 1.5 nan abc {} true [0,0] 99999999",
    "train logger=mlflow": "logger.tracking_uri: path\nlogger.experiment_name: text",
    "train logger=tensorboard": "logger.save_dir: path",
    "train logger=wandb": """
        logger.project: text
        logger.entity: text or null
        logger.mode: '' 5 [] {} true nan sometimes
        """,
    "record": "verify: path or null\nseed: seed",
    "evaluate": """
        sae: path or null
        sweep: path or null
        head: path or null
        name: text or null
        backbone.weights: path or null
        trainer.accelerator: word
        evaluation.batch_size: count
        baselines.kinds: '' 5 {} true nan [5]
        baselines.trained: mapping of paths
        +baselines.trained.a: '' 5 [] {} true null
        baselines.pool_images: count
        baselines.n_bootstrap: 0 39 -1 1.5 nan inf abc [] {} null
        saes: 5 abc {} true nan [5] ['']
        names: 5 abc {} true nan [5]
        benchmark: 0 nope '' nan [] {} true
        visaebench.n_images: 1 0 -3 2.5 nan -inf 1e30 many [3] {} false ''
        visaebench.pool_images: count
        visaebench.n_bootstrap: 0 39 -1 1.5 nan inf abc [] {} null
        visaebench.min_images: count
        visaebench.ks: 5 [0] [1.5] [nan] [a] {} true abc null
        visaebench.siblings: path or null
        embedder: node
        choice.n_picks: count
        choice.register: flag
        choice.where: null x 5 true
        choice.model_name: '' 5 [] {} true
        """,
    "evaluate images@concept_images=folder": "concept_images.roots: paths",
    "evaluate images@transfer_images=folder": "transfer_images.roots: paths",
    "describe": """
        atlas_dir: path or null
        query: text or null
        atlas.n_images: count or null
        atlas.batch_size: count
        atlas.num_workers: workers
        atlas.images_per_part: count
        atlas.shard: 5 [-1,2] [0.5,1] [a,b] {} null abc
        atlas.n_top: count
        atlas.masks: word
        atlas.tables: mapping of paths
        atlas.foreign: 5 {} true nan [5] abc
        atlas.seeds: 5 {} true nan [5] [''] abc
        atlas.n_permutations: count
        atlas.n_map_permutations: count
        atlas.fdr: inner share
        atlas.baseline_images: from 0
        atlas.keep_codes: flag
        atlas.seed: seed
        naming.proposers: 5 {} true nan [5] nope [nope] null
        naming.min_confidence: share
        naming.strength: number
        naming.n_images: count
        naming.n_latents: count or null
        naming.n_random: count
        naming.batch_size: count
        naming.vocabulary: path or null
        naming.tree: path or null
        pages.enabled: flag
        pages.thumbnails: flag
        pages.n_latents: count or null
        pages.contact_sheets: flag
        pages.attributions: from 0
        +atlas.tables.a: '' 5 [] {} true null
        +more_images.a: 5 abc [] true
        +more_images.a.roots: '' 5 nan [5] {} [''] null
        more_images: node
        embedder: node
        """,
    "describe +experiment=describe_vit_tiny": """
        more_images.camvid.roots: paths
        more_images.camvid.void_value: -1 256 1.5 nan abc [] {}
        """,
    "compare": """
        saes: 5 abc {} true nan [5] ['']
        names: 5 abc {} true nan [5]
        weights: 5 abc {} true nan [5]
        atlases: 5 abc {} true nan [5]
        paths.codes: path
        comparison.n_images: count or null
        comparison.batch_size: count
        comparison.num_workers: workers
        comparison.images_per_part: count
        comparison.rows: word
        comparison.n_draws: count
        comparison.tables: mapping of paths
        comparison.n_permutations: count
        comparison.n_map_permutations: count
        comparison.n_bootstrap: count
        comparison.fdr: inner share
        comparison.min_power: inner share
        comparison.least_auroc: 0.5 1 -0.1 nan inf abc [] {} null
        comparison.n_drives: from 0
        comparison.drive_images: count
        comparison.drive_strength: number
        comparison.seed: seed
        """,
    "explore": """
        seed: seed
        sae: path or null
        head: '' 5 [] {} true nan
        also: path or null
        atlas: '' 5 [] true nan
        verdicts: path or null
        host: '' 5 [] {} true nan null
        port: -1 65536 1.5 nan inf abc [] {} true null
        n_images: count
        """,
    "convert": """
        sae: path or null
        out: path or null
        to: nope '' 0 nan [] {} null
        beside: 5 abc {} true nan [5]
        push: '' 5 [] {} true nan
        private: flag
        metrics: path or null
        overwrite: flag
        list: flag
        recording: path or null
        normalized: flag
        belongs: node
        belongs.backbone: '' 5 [] {} true nan
        belongs.layer: -1 1.5 nan inf last [] {} true 99999
        belongs.tokens: nope '' 5 [] {} true nan
        """,
    "intervene": """
        head: '' 5 [] {} true nan
        hypothesis: path or null
        concepts: '' 5 {} true nan [5] ['']
        placebo: -1 1.5 nan inf abc [] {} true
        intervention.batch_size: count
        intervention.max_rows: count
        intervention.num_workers: workers
        """,
}
"""Command with the choices that bring the keys → lines of `key: sort`, or `key: values`."""


def cases() -> list[tuple[str, str, str]]:
    """(command line, key, value as it is typed) of every combination."""
    found = []
    for line, block in KEYS.items():
        for entry in block.strip().splitlines():
            key, _, sort = entry.strip().partition(": ")
            found += [(line, key, value) for value in _split(BAD.get(sort, sort))]
    return found


def _split(text: str) -> list[str]:
    """Words; ``''`` is nothing at all, ``'" "'`` a quoted space."""
    words = text.replace("'\" \"'", "\0").split()
    return [{"''": "", "\0": '" "'}.get(word, word) for word in words]


REFUSED_LATER = [
    line.strip()
    for line in """
    train trainer.devices=[7]
    train trainer.devices=[]
    train trainer.devices=-1
    train trainer.accelerator=gpu
    train trainer.accelerator=mps
    record trainer.accelerator=cuda
    record trainer.devices=[0,1]
    train +trainer.strategy=nonsense
    train +trainer.nope=3
    train +model.nope=3
    train data.dir=nowhere
    train model.k=1e9
    train model.k=1.5
    train model.d_sae=1000000000
    train model.expansion=1e6
    train model.expansion=null
    train tokens.n_per_image=1000
    train tokens.which=registers
    train record.layers=[0,99]
    train backbone.layer=-7
    train backbone.weights=nowhere.pt
    train backbone.name=nope
    train backbone.family=nope
    train backbone._target_=os.system
    train data._target_=os.system
    train model._target_=nothing.there
    train trainer._target_=nope
    train task._target_=nope.x
    train ckpt_path=nowhere
    train images.size=17
    train images.n_images=1
    train images.val_fraction=0.0
    train data.batch_size=1000000 data.reservoir_tokens=1000000
    train data.reservoir_tokens=100
    train objective=typo
    train objective=train/loss
    train callbacks.best.monitor=nope
    train data=null
    train evaluation=null
    train images=folder
    train images=folder images.roots=nowhere
    train images=webdataset
    train images=webdataset images.urls=nowhere.tar
    train images=segmentation images.roots=nowhere
    train model=pca ckpt_path=last.ckpt
    train model=archetypal model.init.atoms=data
    train model=matryoshka model.objective.prefixes=[0.5,0.25,1.0]
    train model=matryoshka model.objective.n_random=3
    train callbacks=resample
    describe sae=x atlas.shard=[1,1]
    describe sae=x atlas.shard=[0]
    describe sae=x atlas.shard=[0,1,2]
    describe sae=x
    compare saes=[a]
    compare saes=[a,b] names=[a,a]
    compare saes=[a,b] weights=[a]
    evaluate
    evaluate sae=a sweep=b
    evaluate sae=a baselines.kinds=[raw,nope]
    evaluate sae=a +choice.nope=1
    intervene concepts=all sae=a saes=[a,b] head=b
    intervene concepts=all sae=a
    intervene sae=a head=b
    intervene hypothesis=nowhere sae=a head=b
    train trainer.max_steps=-1
    train +callbacks.more={}
    train images._target_=builtins.list
    train backbone._target_=builtins.dict
    train model=matryoshka model.objective.prefixes=[]
    train callbacks=resample +callbacks.resample.pool_tokens=abc
    train =5
    train -m seed=1,2
    train --nope
    describe sae=x atlas_dir=y
    describe atlas=folder
    explore atlas={}
    convert sae=nowhere
    convert sae=nowhere out=x
    convert sae=hub:nowhere out=x
    convert sae=prisma:nowhere out=x
    convert sae=x out=x belongs.backbone=nowhere
    convert sae=x out=x push=nowhere
    convert sae=x out=x beside=[nowhere]
    convert sae=x out=x beside=[saelens] to=saelens
    """.strip().splitlines()
]
"""Trainings and recordings that cannot end well, though each value by itself is possible."""

ACCEPTED = [
    "train seed=4294967295 images.seed=1 name=5",
    "train data.reservoir_tokens=10000000000",
    "train record.images_per_shard=8 evaluation.batch_size=1000000 evaluation.n_images=1",
    "train trainer.precision=bf16-true evaluation.figures=true",
    "train trainer.precision=64-true",
    "train trainer.precision=16-mixed",
    "train trainer.gradient_clip_val=0.0 trainer.num_sanity_val_steps=-1 callbacks.progress=null",
    "train tokens.max_norm=null callbacks.best=null model.k_aux=1000000000",
    "train trainer.gradient_clip_val=null +trainer.limit_val_batches=0.5 +data.val_batch_size=3",
    "train objective=fidelity/kl/clean evaluation.fidelity=true model.dead_after_tokens=1",
]
"""Unusual values that have a meaning."""
