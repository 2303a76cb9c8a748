// A step of libtorch's graph of gradients whose backward pass is written in Rust: what
// torch.autograd.Function is for Python. See function.rs, which owns the contract.

#include <ATen/Context.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

using torch::autograd::variable_list;

namespace {

constexpr size_t kMessageBytes = 512;

// The gradients of the outputs (null: there is none) to those of the inputs, which become the
// caller's (null: none). Uses the state up. Not 0: a message was written.
using Backward = int (*)(void* state, at::Tensor* const* outputs, size_t output_count,
                         at::Tensor** inputs, size_t input_count, char* message, size_t bytes);
using Release = void (*)(void* state);

class Function final : public torch::autograd::Node {
 public:
  Function(void* state, Backward backward, Release release)
      : state_(state), backward_(backward), release_(release) {}

  ~Function() override { drop_state(); }

  variable_list apply(variable_list&& gradients) override {
    // The engine calls a node from one thread at a time, unless two passes share it.
    std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(state_ != nullptr, "a second backward pass through a step that was used up");
    std::vector<at::Tensor*> outputs;
    for (auto& gradient : gradients) {
      outputs.push_back(gradient.defined() ? &gradient : nullptr);
    }
    std::vector<at::Tensor*> inputs(num_outputs(), nullptr);
    char message[kMessageBytes] = "";
    void* state = state_;
    state_ = nullptr;
    const int failed = backward_(state, outputs.data(), outputs.size(), inputs.data(),
                                 inputs.size(), message, kMessageBytes);
    variable_list results;
    for (at::Tensor* input : inputs) {
      std::unique_ptr<at::Tensor> owned(input);
      results.push_back(owned ? std::move(*owned) : at::Tensor());
    }
    if (failed != 0) throw std::runtime_error(message);
    return results;
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    drop_state();
  }

  std::string name() const override { return "brine::Function"; }

 private:
  void drop_state() {
    if (state_ != nullptr) release_(state_);
    state_ = nullptr;
  }

  void* state_;
  Backward backward_;
  Release release_;
};

}  // namespace

extern "C" {

// Whether a result of `inputs` takes part in a gradient.
bool brine_is_recorded(at::Tensor* const* inputs, size_t count) {
  if (!torch::autograd::GradMode::is_enabled()) return false;
  for (size_t i = 0; i < count; ++i) {
    if (inputs[i]->requires_grad()) return true;
  }
  return false;
}

// Whether attention on a GPU may be cuDNN's from now on.
void brine_allow_cudnn_attention(bool allowed) { at::globalContext().setSDPUseCuDNN(allowed); }

// Makes `outputs`, which know no gradient yet, results of `inputs`. Owns `state` from the first
// instruction on. Not 0: a message was written.
int brine_record(at::Tensor* const* inputs, size_t input_count, at::Tensor* const* outputs,
                 size_t output_count, void* state, Backward backward, Release release,
                 char* message, size_t bytes) {
  try {
    Function* made;
    try {
      made = new Function(state, backward, release);
    } catch (...) {
      release(state);
      throw;
    }
    // Deletes it, and with it the state, when it has no memory for the count.
    const std::shared_ptr<Function> function(made, torch::autograd::deleteNode);
    for (size_t i = 0; i < input_count; ++i) {
      function->add_next_edge(torch::autograd::impl::gradient_edge(*inputs[i]));
    }
    for (size_t i = 0; i < output_count; ++i) {
      torch::autograd::set_history(*outputs[i], function);
    }
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, bytes, "%s", error.what());
    return 1;
  }
}

}  // extern "C"
