"""Tests of torch_train.py, which need PyTorch: PYTHON -m unittest discover benches/gpu."""

import importlib.util
import unittest

HAS_TORCH = importlib.util.find_spec("torch") is not None
if HAS_TORCH:
    import torch

    import torch_train

SHAPE = {"width": 32, "layers": 2, "heads": 2, "vocabulary": 64, "sequence": 16}


@unittest.skipUnless(HAS_TORCH, "this Python has no PyTorch")
class TorchTrain(unittest.TestCase):
    def test_the_update_is_adamw_of_clipped_gradients_on_float32_masters(self):
        torch.manual_seed(1)
        # One tensor decays and one does not; the gradients are clipped and not clipped.
        masters = [torch.randn(8, 4), torch.randn(5)]
        reference = [torch.nn.Parameter(master.clone()) for master in masters]
        groups = [{"params": reference[:1], "weight_decay": torch_train.WEIGHT_DECAY},
                  {"params": reference[1:], "weight_decay": 0.0}]
        betas = torch_train.BETA1, torch_train.BETA2
        optimizer = torch.optim.AdamW(groups, lr=torch_train.LEARNING_RATE, betas=betas,
                                      eps=torch_train.EPSILON)
        weights = [master.bfloat16() for master in masters]
        firsts, seconds = ([torch.zeros_like(master) for master in masters] for _ in range(2))
        powers = [torch.ones(()), torch.ones(())]
        for size in [3.0, 0.01, 1.0, 0.1]:
            gradients = [(size * torch.randn_like(master)).bfloat16() for master in masters]
            for parameter, gradient in zip(reference, gradients):
                parameter.grad = gradient.float()
            torch.nn.utils.clip_grad_norm_(reference, torch_train.CLIP)
            optimizer.step()
            torch_train.adamw(weights, masters, firsts, seconds, gradients, powers)
            for master, weight, expected in zip(masters, weights, reference):
                torch.testing.assert_close(master, expected.detach(), rtol=2e-6, atol=1e-7)
                self.assertTrue(torch.equal(weight, master.bfloat16()))

    def test_both_ways_train_the_same_model_alike(self):
        losses = {}
        # What is compiled on a processor is no other arithmetic, and would take a minute.
        with torch.compiler.set_stance("force_eager"):
            for mode in ["autocast", "bf16"]:
                torch.manual_seed(1)
                training = torch_train.training(mode, torch_train.Decoder(SHAPE))
                tokens = torch.randint(SHAPE["vocabulary"], (4, SHAPE["sequence"] + 1))
                batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
                losses[mode] = [training.step(*batch).item() for _ in range(60)]
        usual, quick = losses["autocast"], losses["bf16"]
        self.assertLess(usual[-1], 0.8 * usual[0])
        for one, other in zip(usual, quick):
            self.assertAlmostEqual(one, other, delta=0.02 * one)

    def test_bf16_has_bf16_weights_and_gradients_and_one_table_of_tokens(self):
        model = torch_train.Decoder(SHAPE)
        count = sum(p.numel() for p in model.parameters())
        training = torch_train.training("bf16", model)
        self.assertEqual({p.dtype for p in model.parameters()}, {torch.bfloat16})
        self.assertEqual({master.dtype for master in training.masters}, {torch.float32})
        self.assertEqual(sum(master.numel() for master in training.masters), count)
        self.assertIs(model.head.weight, model.tokens.weight)
        # What the update writes is what the model reads.
        training.weights[0].fill_(3)
        self.assertTrue((training.parameters[0] == 3).all())

    def test_losses_are_read_in_order_and_the_newest_ones_stay(self):
        losses = torch_train.Losses(torch.device("cpu"))
        for value in range(4):
            losses.add(torch.tensor(float(value)))
        self.assertEqual(losses.read(3), [0.0, 1.0, 2.0])
        self.assertEqual(len(losses.pending), 1)


if __name__ == "__main__":
    unittest.main()
