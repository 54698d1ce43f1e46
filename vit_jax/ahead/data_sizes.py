"""How many examples and classes the data sets have that recipes name: they need not be here."""

# Of the training split, and classes. Sources: the data sets' papers and web pages.
SIZES = {
    "digits": (1437, 10),
    "idx:data/fashion_mnist": (60_000, 10),
    "folder:data/cifar10": (50_000, 10),
    "folder:data/imagenet21k": (14_197_122, 21_843),
    "tfds:cifar10": (50_000, 10),
    "tfds:cifar100": (50_000, 100),
    "tfds:imagenet2012": (1_281_167, 1000),
}
# Of a set that is not known. It turns epochs into steps, and how many there are changes no step.
EXAMPLES = 1_000_000
