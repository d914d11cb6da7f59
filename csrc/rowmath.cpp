// The portable path, and the choice between the paths.
#include "rowmath.hpp"

namespace learnalign {
namespace {

inline double load(int8_t x) {
    return x;
}
inline double load(Half x) {
    return half_to_float(x);
}
inline double load(float x) {
    return x;
}
inline double load(double x) {
    return x;
}

template <class T>
double sum_squares(const void* row, int64_t d) {
    const T* x = static_cast<const T*>(row);
    double lane[lanes] = {};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        for (int l = 0; l < lanes; ++l) lane[l] += load(x[k + l]) * load(x[k + l]);
    }
    for (int l = 0; k + l < d; ++l) lane[l] += load(x[k + l]) * load(x[k + l]);
    return add_lanes(lane);
}

template <class T>
double dot(const void* row, const double* other, int64_t d) {
    const T* x = static_cast<const T*>(row);
    double lane[lanes] = {};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        for (int l = 0; l < lanes; ++l) lane[l] += load(x[k + l]) * other[k + l];
    }
    for (int l = 0; k + l < d; ++l) lane[l] += load(x[k + l]) * other[k + l];
    return add_lanes(lane);
}

template <class T>
void add_scaled(const void* row, double weight, double* total, int64_t d) {
    const T* x = static_cast<const T*>(row);
    for (int64_t k = 0; k < d; ++k) total[k] += weight * load(x[k]);
}

template <class T>
constexpr RowMath table = {sum_squares<T>, dot<T>, add_scaled<T>};

}  // namespace

const RowMath& row_math(Dtype dtype, Simd path) {
#if defined(__x86_64__)
    if (path == Simd::avx2) return row_math_avx2(dtype);
#else
    (void)path;
#endif
    switch (dtype) {
        case Dtype::int8:
            return table<int8_t>;
        case Dtype::float16:
            return table<Half>;
        case Dtype::float32:
            return table<float>;
        case Dtype::float64:
            break;
    }
    return table<double>;
}

void scale_to_half(const float* row, double factor, Half* out, int64_t d, Simd path) {
#if defined(__x86_64__)
    if (path == Simd::avx2) return scale_to_half_avx2(row, factor, out, d);
#else
    (void)path;
#endif
    for (int64_t k = 0; k < d; ++k) out[k] = float_to_half(static_cast<float>(row[k] * factor));
}

}  // namespace learnalign
