"""Recipes for the integration tests, as a user would write them."""

TWO_INPUTS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.text = nn.Linear(8, 16)
        self.image = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 16)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, image, tokens):
        text = torch.relu(self.text(self.words(tokens).mean(1)))
        both = torch.cat([torch.relu(self.image(image)), text], 1)
        scores = self.head(both)
        return {"scores": scores, "pair": (scores.argmax(1), [text])}

def model():
    return Net()

def example_inputs():
    return torch.rand(1, 1, 8, 8), torch.randint(0, 50, (1, 5))

def calibration():
    for _ in range(12):
        yield torch.rand(1, 1, 8, 8), torch.randint(0, 50, (1, 5))

def evaluate(predict):
    images, tokens = torch.rand(6, 1, 8, 8), torch.randint(0, 50, (6, 5))
    found = predict(images, tokens)
    assert set(found) == {"scores", "pair"}
    assert found["scores"].shape == (6, 4) and found["scores"].dtype == torch.float32
    classes, (text,) = found["pair"]
    assert isinstance(found["pair"], tuple) and classes.dtype == torch.int64
    assert text.shape == (6, 16)
    assert (classes == found["scores"].argmax(1)).all()
    single = predict(images[:1], tokens[:1])
    assert torch.equal(single["scores"], found["scores"][:1])
    return 50.0
"""

CHANNELS_LAST = """
def model():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return net.to(memory_format=torch.channels_last)

def example_inputs():
    return (torch.rand(1, 8, 8, 3).permute(0, 3, 1, 2) - 0.5,)

def calibration():
    for _ in range(8):
        yield (torch.rand(1, 8, 8, 3).permute(0, 3, 1, 2) - 0.5,)

def evaluate(predict):
    x = torch.rand(5, 8, 8, 3).permute(0, 3, 1, 2)
    return float(torch.isfinite(predict(x)).all()) * 100
"""

PERMUTED_OUTPUT = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x).permute(0, 2, 3, 1)

def model():
    return Net()

def example_inputs():
    return (torch.rand(1, 3, 6, 5),)
"""

HALF_LAYERNORM = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, {width})
        self.norm = nn.LayerNorm({width})

    def forward(self, x):
        return self.norm(self.linear(x))

def model():
    return Net().half()

def example_inputs():
    return (torch.randn(1, 32).half(),)
"""

PADDING_SAME = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 8, kernel_size=(32, 1), padding="same"), nn.ReLU())

    def forward(self, x):
        return self.conv(x.reshape(1, 1, 256, 1))

def model():
    return Net()

def example_inputs():
    return (torch.randn(1, 256),)

def calibration():
    for _ in range(8):
        yield (torch.randn(1, 256),)
"""

SLICED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        y = self.c(x)
        return y[:, :4] + y[:, 4:]

def model():
    return Net()

def example_inputs():
    return (torch.randn(1, 3, 32, 32),)

def calibration():
    for _ in range(8):
        yield (torch.randn(1, 3, 32, 32),)
"""

OUTSIDE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3)
        self.gate = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        y = torch.relu(self.body(x)).mean((2, 3))
        return self.gate(y[:, None])[0][:, 0]

def model():
    return Net()

def example_inputs():
    return (torch.rand(1, 1, 8, 8),)
"""

LARGE = """
def model():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())

def example_inputs():
    return (torch.rand(1, 3, 480, 480),)
"""

LINEAR = """
def model():
    return nn.Linear(4, 3)

def example_inputs():
    return (torch.rand(1, 4),)
"""

SMALL_IMAGES = """
def model():
    torch.manual_seed(0)
    return Net()

def example_inputs():
    return (torch.rand(1, 3, 8, 8) - 0.5,)

def calibration():
    return [(torch.rand(1, 3, 8, 8) - 0.5,) for _ in range(8)]
"""

CLAMPED = (
    SMALL_IMAGES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.wide.weight.mul_(300)

    def forward(self, x):
        return self.last(torch.nn.functional.relu6(self.wide(x)))
"""
)

SHARED_BEFORE_A_CLAMP = (
    SMALL_IMAGES
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, padding=1)
        with torch.no_grad():
            self.wide.weight.mul_(100)

    def forward(self, x):
        y = self.wide(x)
        return nn.functional.hardtanh(nn.functional.max_pool2d(y, 1), 0, 6) + y
"""
)

SMALL_CNN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32))
        self.act = nn.ReLU6(inplace=True)
        self.wide = nn.Conv2d(32, 32, 3, padding=1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = x + nn.functional.silu(self.deep(self.wide(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

def model():
    return Net()

def example_inputs():
    return (torch.rand(1, 3, 32, 32),)
"""

NORMALIZED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.norm = nn.Embedding(50, 256), nn.LayerNorm(256)
        self.qkv, self.head = nn.Linear(256, 96), nn.Linear(32, 4)

    def forward(self, tokens):
        q, k, v = self.qkv(self.norm(self.words(tokens))).chunk(3, -1)
        mask = (tokens == 0)[:, None, :] * torch.finfo(torch.float32).min
        return self.head((q @ k.transpose(1, 2) / 5.7 + mask).softmax(-1) @ v)

def model():
    return Net()

def example_inputs():
    return (torch.tensor([[3, 7, 1, 9, 0, 0]]),)
"""
