"""What published files call things, where that differs from what the modules here call them."""

TRANSFORMER_PREFIX = "model."

# Scale and bias that bring the autoencoder's latents into the transformer's space, 16 numbers each, beside
# the transformer's weights. The image pair is a left-over of an earlier stage of training.
LATENT_SCALE, LATENT_BIAS = "video_data_scale", "video_data_bias"
LEGACY = frozenset({"image_data_scale", "image_data_bias"})

# transformers writes T5's token table under this name too in some versions; it is the same as shared.weight.
TIED = frozenset({"encoder.embed_tokens.weight"})

NOT_WEIGHTS = frozenset({LATENT_SCALE, LATENT_BIAS}) | LEGACY | TIED

# Modules whose matrix products stay float32 in a bfloat16 model: a step's time is one row, so they cost
# nothing, and every token of every block depends on them.
FLOAT32_PARTS = frozenset({"time_embedding", "time_projection"})
