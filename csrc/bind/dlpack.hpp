// The structures of DLPack's unversioned binary interface (version 0.8), by which libraries share arrays.
#pragma once

#include <cstdint>

namespace lfpose::bind::dlpack {

constexpr std::int32_t kCuda = 2, kCudaManaged = 13;

struct Device {
    std::int32_t type, id;
};

struct DataType {
    std::uint8_t code, bits;  // code: 0 int, 1 uint, 2 float
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    std::int32_t dimensions;
    DataType type;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements; null for a C-contiguous array
    std::uint64_t byte_offset;
};

struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor*);
};

}  // namespace lfpose::bind::dlpack
