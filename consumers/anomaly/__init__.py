"""PatchCore: verdict, heatmap, regions."""
