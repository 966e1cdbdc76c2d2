// Attention of one new token per sequence over the paged KV pool, on a CPU.
//
// The pool of a layer is [num_blocks * block_size, 2, kv_heads, dim]: a token's keys, then its
// values. A work item is one sequence and a range of its key heads; it reads each key and each
// value once, where they lie. Scores and sums are float32 whatever the pool's type.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>

namespace {

struct BFloat16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(BFloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// e^x for x <= 0 within 2 ulp, without a branch or a call, so that a loop over it is vectorised.
inline float exp_nonpositive(float x) {
    x = std::max(x, -87.0f);
    const float shifted = x * 1.44269504f + 12582912.0f;  // rounds x / ln 2 to an integer
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

struct Shape {
    int64_t batch, heads, kv_heads, dim, query_stride, width, block_size, window;
    float scale;
};

template <typename T>
float dot(const float* query, const T* key, int64_t dim) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < dim; ++d) sum += query[d] * to_float(key[d]);
    return sum;
}

// Scores become weights, not yet divided by their sum, which is returned.
float exponentiate(float* scores, int64_t count) {
    float top = scores[0];
#pragma omp simd reduction(max : top)
    for (int64_t t = 0; t < count; ++t) top = std::max(top, scores[t]);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < count; ++t) {
        scores[t] = exp_nonpositive(scores[t] - top);
        sum += scores[t];
    }
    return sum;
}

template <typename T>
class Item {
  public:
    Item(const Shape& shape, const T* pool, const int64_t* table, int64_t position)
        : s(shape), pool_(pool), table_(table),
          first_(s.window ? std::max<int64_t>(0, position - s.window + 1) : 0),
          count_(position - first_ + 1), group_(s.heads / s.kv_heads) {}

    // Query heads of key heads [from, to). `queries` and `out` are the sequence's rows.
    void run(const float* queries, float* out, int64_t from, int64_t to, std::vector<float>& scratch) {
        const int64_t rows = (to - from) * group_, start = from * group_;
        scratch.resize(rows * (count_ + 2 * s.dim));
        float* scores = scratch.data();
        float* scaled = scores + rows * count_;
        float* sums = scaled + rows * s.dim;
        for (int64_t i = 0; i < rows * s.dim; ++i) {
            scaled[i] = queries[start * s.dim + i] * s.scale;
            sums[i] = 0.0f;
        }
        for (int64_t t = 0; t < count_; ++t) {
            const T* keys = token(t) + from * s.dim;
            for (int64_t row = 0; row < rows; ++row)
                scores[row * count_ + t] =
                    dot(scaled + row * s.dim, keys + row / group_ * s.dim, s.dim);
        }
        for (int64_t row = 0; row < rows; ++row) {
            const float total = exponentiate(scores + row * count_, count_);
            const float share = 1.0f / total;
            for (int64_t t = 0; t < count_; ++t) scores[row * count_ + t] *= share;
        }
        for (int64_t t = 0; t < count_; ++t) {
            const T* values = token(t) + (s.kv_heads + from) * s.dim;
            for (int64_t row = 0; row < rows; ++row) {
                const float weight = scores[row * count_ + t];
                const T* value = values + row / group_ * s.dim;
                float* sum = sums + row * s.dim;
#pragma omp simd
                for (int64_t d = 0; d < s.dim; ++d) sum[d] += weight * to_float(value[d]);
            }
        }
        std::copy_n(sums, rows * s.dim, out + start * s.dim);
    }

  private:
    // Keys of the t-th token that is seen.
    const T* token(int64_t t) const {
        const int64_t place = first_ + t;
        const int64_t slot = table_[place / s.block_size] * s.block_size + place % s.block_size;
        return pool_ + slot * 2 * s.kv_heads * s.dim;
    }

    const Shape& s;
    const T* pool_;
    const int64_t* table_;
    const int64_t first_, count_, group_;
};

template <typename T>
void attend(const Shape& s, const float* queries, const T* pool, const int64_t* tables,
            const int64_t* positions, float* out, int threads) {
    // Few sequences are cut by heads, so that every thread has several items to take.
    const int64_t wanted = threads == 1 ? 1 : (4 * threads + s.batch - 1) / s.batch;
    const int64_t parts = std::min(s.kv_heads, wanted);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> scratch;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < s.batch * parts; ++i) {
            const int64_t row = i / parts, part = i % parts;
            Item<T> item(s, pool, tables + row * s.width, positions[row]);
            item.run(queries + row * s.query_stride, out + row * s.heads * s.dim,
                     s.kv_heads * part / parts, s.kv_heads * (part + 1) / parts, scratch);
        }
    }
}

}  // namespace

// queries: [batch, heads, dim] with rows `query_stride` elements apart; tables: [batch, width] of
// block numbers; positions: [batch], the new token's own; window 0 sees everything; out: [batch,
// heads, dim]. The pool is bfloat16 if `is_bf16`, else float32.
extern "C" void rondo_paged_decode(const float* queries, const void* pool, const int64_t* tables,
                                   const int64_t* positions, float* out, int64_t batch,
                                   int64_t heads, int64_t kv_heads, int64_t dim,
                                   int64_t query_stride, int64_t width, int64_t block_size,
                                   int64_t window, float scale, int is_bf16, int threads) {
    const Shape s{batch, heads, kv_heads, dim, query_stride, width, block_size, window, scale};
    if (is_bf16)
        attend(s, queries, static_cast<const BFloat16*>(pool), tables, positions, out, threads);
    else
        attend(s, queries, static_cast<const float*>(pool), tables, positions, out, threads);
}
