// The CUDA kernel's algorithm on the CPU, for its tests: a block of one thread decodes each map.
#include <cstddef>
#include <vector>

#include "lfpose/block_plan.hpp"

namespace lfpose {
namespace {

struct OneThread {
    template <typename F>
    void for_each(int count, F f) const {
        for (int i = 0; i < count; ++i) f(i);
    }
    template <typename Chosen, typename F>
    void for_each_chosen(int count, Chosen chosen, int each, F f) const {
        for (int i = 0; i < count; ++i) {
            if (!chosen(i)) continue;
            for (int j = 0; j < each; ++j) f(i, j);
        }
    }
    bool leads() const { return true; }
    Peak best(const Peak& peak) const { return peak; }
    void sum(double&, double&, double&) const {}
};

}  // namespace

void decode_by_blocks(const DecodeInput& input, const DecodeSpec& spec, const DecodeOutput& output, int) {
    const std::vector<double> weights = blur_weights(spec);
    const BlockPlan plan = block_plan(spec, weights, weights.data());
    const int height = input.height, width = input.width;
    std::vector<double> shared(BlockMemory::bytes(plan, height, width) / sizeof(double) + 1);
    const BlockMemory memory = BlockMemory::within(shared.data(), plan, height, width);
    OneThread block;
    for (std::ptrdiff_t i = 0; i < static_cast<std::ptrdiff_t>(input.crops) * input.joints; ++i) {
        const MapReader<float> read(input.cams, input.flipped, input.flip_permutation, input.joints, height,
                                    width, i);
        double x = 0.0, y = 0.0;
        const Peak peak = BlockDecoder<OneThread>(block, plan, memory, height, width).decode(read, x, y);
        write_joint(output, input.affines, input.joints, input.presence[i], i, peak, x, y);
    }
}

}  // namespace lfpose
