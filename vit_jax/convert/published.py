"""Published weights of the models that have names, as ids of the Hugging Face Hub.

timm's are those of its own table of pretrained weights (`timm.list_pretrained`, 1.0.31), which a
test compares with the timm that is installed. Those for Transformers are the repositories of the
models' authors and of LAION. `from_pretrained` reads all of them by what their files say.
"""

# Tags of timm's weights: of "timm/NAME.TAG". Where the repository has another name than the model,
# both are there.
TIMM_TAGS: dict[str, str] = {
    "deit3_base_patch16_224": "fb_in1k fb_in22k_ft_in1k",
    "deit3_base_patch16_384": "fb_in1k fb_in22k_ft_in1k",
    "deit3_huge_patch14_224": "fb_in1k fb_in22k_ft_in1k",
    "deit3_large_patch16_224": "fb_in1k fb_in22k_ft_in1k",
    "deit3_large_patch16_384": "fb_in1k fb_in22k_ft_in1k",
    "deit3_medium_patch16_224": "fb_in1k fb_in22k_ft_in1k",
    "deit3_small_patch16_224": "fb_in1k fb_in22k_ft_in1k",
    "deit3_small_patch16_384": "fb_in1k fb_in22k_ft_in1k",
    "deit_base_distilled_patch16_224": "fb_in1k",
    "deit_base_distilled_patch16_384": "fb_in1k",
    "deit_base_patch16_224": "fb_in1k",
    "deit_base_patch16_384": "fb_in1k",
    "deit_small_distilled_patch16_224": "fb_in1k",
    "deit_small_patch16_224": "fb_in1k",
    "deit_tiny_distilled_patch16_224": "fb_in1k",
    "deit_tiny_patch16_224": "fb_in1k",
    "resnetv2_101x1_bit": "goog_in21k goog_in21k_ft_in1k",
    "resnetv2_101x3_bit": "goog_in21k goog_in21k_ft_in1k",
    "resnetv2_152x2_bit": (
        "goog_in21k goog_in21k_ft_in1k goog_teacher_in21k_ft_in1k goog_teacher_in21k_ft_in1k_384"
    ),
    "resnetv2_152x4_bit": "goog_in21k goog_in21k_ft_in1k",
    "resnetv2_50x1_bit": "goog_distilled_in1k goog_in21k goog_in21k_ft_in1k",
    "resnetv2_50x3_bit": "goog_in21k goog_in21k_ft_in1k",
    "swin_base_patch4_window12_384": "ms_in1k ms_in22k ms_in22k_ft_in1k",
    "swin_base_patch4_window7_224": "ms_in1k ms_in22k ms_in22k_ft_in1k",
    "swin_large_patch4_window12_384": "ms_in22k ms_in22k_ft_in1k",
    "swin_large_patch4_window7_224": "ms_in22k ms_in22k_ft_in1k",
    "swin_s3_base_224": "ms_in1k",
    "swin_s3_small_224": "ms_in1k",
    "swin_s3_tiny_224": "ms_in1k",
    "swin_small_patch4_window7_224": "ms_in1k ms_in22k ms_in22k_ft_in1k",
    "swin_tiny_patch4_window7_224": "ms_in1k ms_in22k ms_in22k_ft_in1k",
    "swinv2_base_window12_192": "ms_in22k",
    "swinv2_base_window12to16_192to256": "ms_in22k_ft_in1k",
    "swinv2_base_window12to24_192to384": "ms_in22k_ft_in1k",
    "swinv2_base_window16_256": "ms_in1k",
    "swinv2_base_window8_256": "ms_in1k",
    "swinv2_large_window12_192": "ms_in22k",
    "swinv2_large_window12to16_192to256": "ms_in22k_ft_in1k",
    "swinv2_large_window12to24_192to384": "ms_in22k_ft_in1k",
    "swinv2_small_window16_256": "ms_in1k",
    "swinv2_small_window8_256": "ms_in1k",
    "swinv2_tiny_window16_256": "ms_in1k",
    "swinv2_tiny_window8_256": "ms_in1k",
    "vit_base_patch14_dinov2": "lvd142m",
    "vit_base_patch14_reg4_dinov2": "lvd142m",
    "vit_base_patch16_224": (
        "augreg2_in21k_ft_in1k augreg_in1k augreg_in21k augreg_in21k_ft_in1k bamboo dino mae "
        "orig_in21k orig_in21k_ft_in1k sam_in1k"
    ),
    "vit_base_patch16_384": "augreg_in1k augreg_in21k_ft_in1k orig_in21k_ft_in1k",
    "vit_base_patch16_clip_224": (
        "datacompxl dfn2b laion2b laion2b_ft_in1k laion2b_ft_in12k laion2b_ft_in12k_in1k "
        "laion400m_e32 metaclip_2pt5b metaclip_400m openai openai_ft_in1k openai_ft_in12k "
        "openai_ft_in12k_in1k"
    ),
    "vit_base_patch16_clip_384": (
        "laion2b_ft_in1k laion2b_ft_in12k_in1k openai_ft_in1k openai_ft_in12k_in1k"
    ),
    "vit_base_patch16_clip_quickgelu_224": (
        "vit_base_patch16_clip_224.metaclip_2pt5b vit_base_patch16_clip_224.metaclip_400m "
        "vit_base_patch16_clip_224.openai"
    ),
    "vit_base_patch16_plus_clip_240": "laion400m_e32",
    "vit_base_patch16_siglip_224": "v2_webli webli",
    "vit_base_patch16_siglip_256": "v2_webli webli webli_i18n",
    "vit_base_patch16_siglip_384": "v2_webli webli",
    "vit_base_patch16_siglip_512": "v2_webli webli",
    "vit_base_patch16_siglip_gap_224": "v2_webli webli",
    "vit_base_patch16_siglip_gap_256": "v2_webli webli webli_i18n",
    "vit_base_patch16_siglip_gap_384": "v2_webli webli",
    "vit_base_patch16_siglip_gap_512": "v2_webli webli",
    "vit_base_patch32_224": "augreg_in1k augreg_in21k augreg_in21k_ft_in1k orig_in21k sam_in1k",
    "vit_base_patch32_384": "augreg_in1k augreg_in21k_ft_in1k",
    "vit_base_patch32_clip_224": (
        "datacompxl laion2b laion2b_ft_in1k laion2b_ft_in12k_in1k laion400m_e32 metaclip_2pt5b "
        "metaclip_400m openai openai_ft_in1k"
    ),
    "vit_base_patch32_clip_256": "datacompxl",
    "vit_base_patch32_clip_384": "laion2b_ft_in12k_in1k openai_ft_in12k_in1k",
    "vit_base_patch32_clip_448": "laion2b_ft_in12k_in1k",
    "vit_base_patch32_clip_quickgelu_224": (
        "vit_base_patch32_clip_224.laion400m_e32 vit_base_patch32_clip_224.metaclip_2pt5b "
        "vit_base_patch32_clip_224.metaclip_400m vit_base_patch32_clip_224.openai"
    ),
    "vit_base_patch32_siglip_256": "v2_webli",
    "vit_base_patch32_siglip_gap_256": "v2_webli",
    "vit_base_patch8_224": "augreg2_in21k_ft_in1k augreg_in21k augreg_in21k_ft_in1k dino",
    "vit_base_r50_s16_224": "orig_in21k",
    "vit_base_r50_s16_384": "orig_in21k_ft_in1k",
    "vit_betwixt_patch32_clip_224": "tinyclip_laion400m",
    "vit_giant_patch14_clip_224": "laion2b",
    "vit_giant_patch14_dinov2": "lvd142m",
    "vit_giant_patch14_reg4_dinov2": "lvd142m",
    "vit_giantopt_patch16_siglip_256": "v2_webli",
    "vit_giantopt_patch16_siglip_384": "v2_webli",
    "vit_giantopt_patch16_siglip_gap_256": "v2_webli",
    "vit_giantopt_patch16_siglip_gap_384": "v2_webli",
    "vit_gigantic_patch14_clip_224": "laion2b metaclip2_worldwide metaclip_2pt5b",
    "vit_gigantic_patch14_clip_378": "metaclip2_worldwide",
    "vit_gigantic_patch14_clip_quickgelu_224": "vit_gigantic_patch14_clip_224.metaclip_2pt5b",
    "vit_huge_patch14_224": "mae orig_in21k",
    "vit_huge_patch14_clip_224": (
        "dfn5b laion2b laion2b_ft_in1k laion2b_ft_in12k laion2b_ft_in12k_in1k metaclip2_worldwide "
        "metaclip_2pt5b metaclip_altogether"
    ),
    "vit_huge_patch14_clip_336": "laion2b_ft_in12k_in1k",
    "vit_huge_patch14_clip_378": "dfn5b metaclip2_worldwide",
    "vit_huge_patch14_clip_quickgelu_224": (
        "vit_huge_patch14_clip_224.dfn5b vit_huge_patch14_clip_224.metaclip2_worldwide "
        "vit_huge_patch14_clip_224.metaclip_2pt5b"
    ),
    "vit_huge_patch14_clip_quickgelu_378": "vit_huge_patch14_clip_378.dfn5b",
    "vit_large_patch14_clip_224": (
        "apple_mclip2_dfndr2b datacompxl dfn2b dfn2b_s39b laion2b laion2b_ft_in1k laion2b_ft_in12k "
        "laion2b_ft_in12k_in1k laion400m_e32 metaclip_2pt5b metaclip_400m openai openai_ft_in1k "
        "openai_ft_in12k openai_ft_in12k_in1k"
    ),
    "vit_large_patch14_clip_336": (
        "laion2b_ft_in1k laion2b_ft_in12k_in1k openai openai_ft_in12k_in1k"
    ),
    "vit_large_patch14_clip_quickgelu_224": (
        "vit_large_patch14_clip_224.dfn2b vit_large_patch14_clip_224.metaclip_2pt5b "
        "vit_large_patch14_clip_224.metaclip_400m vit_large_patch14_clip_224.openai"
    ),
    "vit_large_patch14_clip_quickgelu_336": "vit_large_patch14_clip_336.openai",
    "vit_large_patch14_dinov2": "lvd142m",
    "vit_large_patch14_reg4_dinov2": "lvd142m",
    "vit_large_patch16_224": "augreg_in21k augreg_in21k_ft_in1k mae orig_in21k",
    "vit_large_patch16_384": "augreg_in21k_ft_in1k",
    "vit_large_patch16_siglip_256": "v2_webli webli",
    "vit_large_patch16_siglip_384": "v2_webli webli",
    "vit_large_patch16_siglip_512": "v2_webli",
    "vit_large_patch16_siglip_gap_256": "v2_webli webli",
    "vit_large_patch16_siglip_gap_384": "v2_webli webli",
    "vit_large_patch16_siglip_gap_512": "v2_webli",
    "vit_large_patch32_224": "orig_in21k",
    "vit_large_patch32_384": "orig_in21k_ft_in1k",
    "vit_large_r50_s32_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_large_r50_s32_384": "augreg_in21k_ft_in1k",
    "vit_medium_patch16_clip_224": "tinyclip_yfcc15m",
    "vit_medium_patch32_clip_224": "tinyclip_laion400m",
    "vit_small_patch14_dinov2": "lvd142m",
    "vit_small_patch14_reg4_dinov2": "lvd142m",
    "vit_small_patch16_224": "augreg_in1k augreg_in21k augreg_in21k_ft_in1k dino",
    "vit_small_patch16_384": "augreg_in1k augreg_in21k_ft_in1k",
    "vit_small_patch32_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_small_patch32_384": "augreg_in21k_ft_in1k",
    "vit_small_patch8_224": "dino",
    "vit_small_r26_s32_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_small_r26_s32_384": "augreg_in21k_ft_in1k",
    "vit_so400m_patch14_siglip_224": "v2_webli webli",
    "vit_so400m_patch14_siglip_378": "v2_webli webli webli_ft_in1k",
    "vit_so400m_patch14_siglip_gap_224": "pali2_3b_pt pali2_10b_pt pali_mix pali_pt v2_webli webli",
    "vit_so400m_patch14_siglip_gap_378": "v2_webli webli webli_ft_in1k",
    "vit_so400m_patch14_siglip_gap_448": (
        "pali2_3b_docci pali2_3b_pt pali2_10b_docci pali2_10b_pt pali_mix pali_ocrvqa pali_pt "
        "pali_refcoco_seg"
    ),
    "vit_so400m_patch14_siglip_gap_896": (
        "pali2_3b_pt pali2_10b_pt pali_ocrvqa pali_pt pali_refcoco_seg"
    ),
    "vit_so400m_patch16_siglip_256": "v2_webli webli_i18n",
    "vit_so400m_patch16_siglip_384": "v2_webli",
    "vit_so400m_patch16_siglip_512": "v2_webli",
    "vit_so400m_patch16_siglip_gap_256": "v2_webli webli_i18n",
    "vit_so400m_patch16_siglip_gap_384": "v2_webli",
    "vit_so400m_patch16_siglip_gap_512": "v2_webli",
    "vit_tiny_patch16_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_tiny_patch16_384": "augreg_in21k_ft_in1k",
    "vit_tiny_r_s16_p8_224": "augreg_in21k augreg_in21k_ft_in1k",
    "vit_tiny_r_s16_p8_384": "augreg_in21k_ft_in1k",
    "vit_xsmall_patch16_clip_224": "tinyclip_yfcc15m",
}

# Repositories with weights for Transformers.
TRANSFORMERS: dict[str, str] = {
    "deit_base_distilled_patch16_224": "facebook/deit-base-distilled-patch16-224",
    "deit_base_distilled_patch16_384": "facebook/deit-base-distilled-patch16-384",
    "deit_base_patch16_224": "facebook/deit-base-patch16-224",
    "deit_base_patch16_384": "facebook/deit-base-patch16-384",
    "deit_small_distilled_patch16_224": "facebook/deit-small-distilled-patch16-224",
    "deit_small_patch16_224": "facebook/deit-small-patch16-224",
    "deit_tiny_distilled_patch16_224": "facebook/deit-tiny-distilled-patch16-224",
    "deit_tiny_patch16_224": "facebook/deit-tiny-patch16-224",
    "mae_vit_base_patch16": "facebook/vit-mae-base",
    "mae_vit_huge_patch14": "facebook/vit-mae-huge",
    "mae_vit_large_patch16": "facebook/vit-mae-large",
    "swin_base_patch4_window12_384": (
        "microsoft/swin-base-patch4-window12-384 microsoft/swin-base-patch4-window12-384-in22k"
    ),
    "swin_base_patch4_window7_224": (
        "microsoft/swin-base-patch4-window7-224 microsoft/swin-base-patch4-window7-224-in22k"
    ),
    "swin_large_patch4_window12_384": (
        "microsoft/swin-large-patch4-window12-384 microsoft/swin-large-patch4-window12-384-in22k"
    ),
    "swin_large_patch4_window7_224": (
        "microsoft/swin-large-patch4-window7-224 microsoft/swin-large-patch4-window7-224-in22k"
    ),
    "swin_small_patch4_window7_224": "microsoft/swin-small-patch4-window7-224",
    "swin_tiny_patch4_window7_224": "microsoft/swin-tiny-patch4-window7-224",
    "swinv2_base_window12_192": "microsoft/swinv2-base-patch4-window12-192-22k",
    "swinv2_base_window12to16_192to256": (
        "microsoft/swinv2-base-patch4-window12to16-192to256-22kto1k-ft"
    ),
    "swinv2_base_window12to24_192to384": (
        "microsoft/swinv2-base-patch4-window12to24-192to384-22kto1k-ft"
    ),
    "swinv2_base_window16_256": "microsoft/swinv2-base-patch4-window16-256",
    "swinv2_base_window8_256": "microsoft/swinv2-base-patch4-window8-256",
    "swinv2_large_window12_192": "microsoft/swinv2-large-patch4-window12-192-22k",
    "swinv2_large_window12to16_192to256": (
        "microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft"
    ),
    "swinv2_large_window12to24_192to384": (
        "microsoft/swinv2-large-patch4-window12to24-192to384-22kto1k-ft"
    ),
    "swinv2_small_window16_256": "microsoft/swinv2-small-patch4-window16-256",
    "swinv2_small_window8_256": "microsoft/swinv2-small-patch4-window8-256",
    "swinv2_tiny_window16_256": "microsoft/swinv2-tiny-patch4-window16-256",
    "swinv2_tiny_window8_256": "microsoft/swinv2-tiny-patch4-window8-256",
    "vit_base_patch14_dinov2": "facebook/dinov2-base",
    "vit_base_patch14_reg4_dinov2": "facebook/dinov2-with-registers-base",
    "vit_base_patch16_224": (
        "google/vit-base-patch16-224 google/vit-base-patch16-224-in21k facebook/dino-vitb16"
    ),
    "vit_base_patch16_384": "google/vit-base-patch16-384",
    "vit_base_patch16_clip_224": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "vit_base_patch16_clip_quickgelu_224": "openai/clip-vit-base-patch16",
    "vit_base_patch16_siglip_224": "google/siglip-base-patch16-224 google/siglip2-base-patch16-224",
    "vit_base_patch16_siglip_256": "google/siglip-base-patch16-256 google/siglip2-base-patch16-256",
    "vit_base_patch16_siglip_384": "google/siglip-base-patch16-384 google/siglip2-base-patch16-384",
    "vit_base_patch16_siglip_512": "google/siglip-base-patch16-512 google/siglip2-base-patch16-512",
    "vit_base_patch32_224": "google/vit-base-patch32-224-in21k",
    "vit_base_patch32_384": "google/vit-base-patch32-384",
    "vit_base_patch32_clip_224": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "vit_base_patch32_clip_quickgelu_224": "openai/clip-vit-base-patch32",
    "vit_base_patch32_siglip_256": "google/siglip2-base-patch32-256",
    "vit_base_patch8_224": "facebook/dino-vitb8",
    "vit_giant_patch14_dinov2": "facebook/dinov2-giant",
    "vit_giant_patch14_reg4_dinov2": "facebook/dinov2-with-registers-giant",
    "vit_giantopt_patch16_siglip_256": "google/siglip2-giant-opt-patch16-256",
    "vit_giantopt_patch16_siglip_384": "google/siglip2-giant-opt-patch16-384",
    "vit_huge_patch14_224": "google/vit-huge-patch14-224-in21k",
    "vit_huge_patch14_clip_224": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "vit_large_patch14_clip_224": "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    "vit_large_patch14_clip_quickgelu_224": "openai/clip-vit-large-patch14",
    "vit_large_patch14_clip_quickgelu_336": "openai/clip-vit-large-patch14-336",
    "vit_large_patch14_dinov2": "facebook/dinov2-large",
    "vit_large_patch14_reg4_dinov2": "facebook/dinov2-with-registers-large",
    "vit_large_patch16_224": "google/vit-large-patch16-224 google/vit-large-patch16-224-in21k",
    "vit_large_patch16_384": "google/vit-large-patch16-384",
    "vit_large_patch16_siglip_256": (
        "google/siglip-large-patch16-256 google/siglip2-large-patch16-256"
    ),
    "vit_large_patch16_siglip_384": (
        "google/siglip-large-patch16-384 google/siglip2-large-patch16-384"
    ),
    "vit_large_patch16_siglip_512": "google/siglip2-large-patch16-512",
    "vit_large_patch32_224": "google/vit-large-patch32-224-in21k",
    "vit_large_patch32_384": "google/vit-large-patch32-384",
    "vit_small_patch14_dinov2": "facebook/dinov2-small",
    "vit_small_patch14_reg4_dinov2": "facebook/dinov2-with-registers-small",
    "vit_small_patch16_224": "facebook/dino-vits16",
    "vit_small_patch8_224": "facebook/dino-vits8",
    "vit_so400m_patch14_siglip_224": (
        "google/siglip-so400m-patch14-224 google/siglip2-so400m-patch14-224"
    ),
    "vit_so400m_patch14_siglip_378": (
        "google/siglip-so400m-patch14-384 google/siglip2-so400m-patch14-384"
    ),
    "vit_so400m_patch16_siglip_256": "google/siglip2-so400m-patch16-256",
    "vit_so400m_patch16_siglip_384": "google/siglip2-so400m-patch16-384",
    "vit_so400m_patch16_siglip_512": "google/siglip2-so400m-patch16-512",
}


def published(name: str) -> tuple[str, ...]:
    """Returns ids of weights for a model, as `vit_jax.from_pretrained` takes them.

    Args:
        name: of `list_models()`.
    """
    tags = (x if "." in x else f"{name}.{x}" for x in TIMM_TAGS.get(name, "").split())
    repositories = TRANSFORMERS.get(name, "").split()
    return (*(f"timm/{x}" for x in tags), *(f"hf-hub:{x}" for x in repositories))
