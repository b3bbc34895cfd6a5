// Applies sharp's operations to a file: the first argument is the file, the second a folder for the results, the third a
// JSON list of lists of steps, each the name of a method and its arguments. Each list becomes NUMBER.png in the folder.
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'

const sharp = createRequire(`${resolve(process.env.SHARP_DIR)}/`)('sharp')
const [file, folder, operations] = process.argv.slice(2)

for (const [number, steps] of JSON.parse(operations).entries()) {
  let image = sharp(file).autoOrient()
  for (const [method, ...args] of steps) image = image[method](...args)
  await image.png().toFile(join(folder, `${number}.png`))
}
