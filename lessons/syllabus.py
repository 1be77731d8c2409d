"""The whole course by parts, those lessons included that are not written yet."""

SYLLABUS: list[tuple[str, list[tuple[int, str]]]] = [
    (
        "Derivatives",
        [(1, "Graphs and derivatives"), (2, "Checking and differentiating twice"), (3, "Matrix calculus")],
    ),
    (
        "Nets that train",
        [
            (4, "Training nets that train"),
            (5, "Schedules and averaging"),
            (6, "Convolution and vision blocks"),
            (7, "Finding objects"),
            (8, "Spatial attention"),
            (9, "Metric learning"),
        ],
    ),
    (
        "Sequences",
        [
            (10, "Sequences"),
            (11, "Alignment without segmentation"),
            (12, "Attention and the Transformer"),
            (13, "Pre-training and generation"),
            (14, "Transformers on images, and MLPs"),
            (15, "Reasoning in steps"),
        ],
    ),
    ("Generating and combining", [(16, "Generative models"), (17, "Wisdom of crowds")]),
    (
        "Many ranks",
        [
            (18, "Data parallelism"),
            (19, "Memory: recompute"),
            (20, "Memory: shard"),
            (21, "Memory: offload"),
            (22, "Pipelines"),
            (23, "Splitting tensors and tokens"),
        ],
    ),
    (
        "Beyond one net",
        [
            (24, "Searching architectures and hyper-parameters"),
            (25, "Laws of scale"),
            (26, "Privacy and federation"),
            (27, "Data as a subject"),
            (28, "Capstone"),
        ],
    ),
]
